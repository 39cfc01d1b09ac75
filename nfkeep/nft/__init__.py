"""nftables: tables over raw nfnetlink that live no longer than the process that made them."""
