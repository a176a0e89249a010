"""What a finished edit shows a person: its record, a verdict, pictures, and report.html."""

from .write import write_report, write_summary

__all__ = ["write_report", "write_summary"]
