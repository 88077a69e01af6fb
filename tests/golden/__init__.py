"""What people see: the text of every command, as it was last looked at.

`python -m tests.golden` writes the files anew; look at the difference before it is committed.
"""
