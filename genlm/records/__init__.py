"""The results of tasks: plain data, ready to be shown or written."""
