"""One module for each match of iptables, named like it: the table of what it covers, and its translation."""
