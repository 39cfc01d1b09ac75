"""nftables: scripts through libnftables, and tables that live no longer than this process."""
