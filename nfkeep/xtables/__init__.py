"""Legacy tables: rules through libxtables, tables through the kernel's own calls, one module per stateful match."""
