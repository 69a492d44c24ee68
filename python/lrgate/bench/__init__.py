"""lrgate beside every engine that a user would pick instead: the command ``lrgate bench``."""
