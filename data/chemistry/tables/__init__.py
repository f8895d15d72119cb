"""Tables of numbers that chemistry's data stand on, as data files beside this one."""
