"""The command line: one file a verb. Nothing heavy is imported until a verb runs; the entry point is `kbit.cli.main.main`."""

__all__: list[str] = []
