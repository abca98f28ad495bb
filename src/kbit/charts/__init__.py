"""Charts and pages as text, without any library: SVG panels, axes, and the style sheet of reports."""
