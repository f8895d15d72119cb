"""Tables of numbers that chemistry's metrics stand on, as data files beside this one."""
