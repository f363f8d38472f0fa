"""A run as a page to read: `report.html`, one file that opens from disk and asks the network for nothing."""

from jaxclf.report.content import RateTest, ReportContent
from jaxclf.report.from_run import REPORT, collect, write_report
from jaxclf.report.page import make_report

__all__ = ["REPORT", "RateTest", "ReportContent", "collect", "make_report", "write_report"]
