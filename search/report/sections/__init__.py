"""The sections of a run's report, one file each: functions of the run's store and its verdict that return HTML.

A section returns "" where there is nothing to show. It reads the run's folder, its study and the verdict alone, so that
the report of an older run is made anew from its folder.
"""
