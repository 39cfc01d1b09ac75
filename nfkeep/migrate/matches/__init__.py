"""One module for each match of iptables, named like it in small letters: the table of what it covers, and its translation."""
