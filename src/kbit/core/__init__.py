"""Values, errors and files that every floor stands on."""
