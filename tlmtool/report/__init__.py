"""What a run found out: the parts of a report, and its views as a table, a card and a picture."""
