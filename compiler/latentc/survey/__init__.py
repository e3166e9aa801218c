"""Inspects data sets: kind, shape, classes, damaged and unusual files, statistics, and a sheet of samples."""

from latentc.survey.report import Finding, Survey
from latentc.survey.sections import section_of
from latentc.survey.sheet import contact_sheet
from latentc.survey.survey import survey

__all__ = ["Finding", "Survey", "contact_sheet", "section_of", "survey"]
