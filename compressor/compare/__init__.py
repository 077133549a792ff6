"""What is known and what is noise: intervals, paired tests, and three-way verdicts."""
