"""Legacy tables: rules through libxtables, tables through libiptc, one module per stateful match."""
