"""What makes a conversation unfit to train on: each kind of fault a file. Refuses to know files and reports."""
