"""The report of one run or several: everything that was written down, as one page that needs no network."""
