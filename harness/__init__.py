"""Trains and records: a sweep names runs, runs of one shape are stacked, a stack is trained as one program."""
