"""The report of a run: facts become sections, sections become one page."""
