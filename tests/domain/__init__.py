"""The program: its rules and operations, first as arithmetic, then through HTTP."""
