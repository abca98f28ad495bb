"""The report of a study: one HTML file that needs nothing else, from rows and the laws fitted to them.

panels   charts of rows and laws      tables   what is behind them      page   the whole, with how to read it
"""

from kbit.study.report.page import StudyReport, render_study

__all__ = ["StudyReport", "render_study"]
