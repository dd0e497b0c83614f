"""The embedded engine: the Ledger over LMDB, and its actors."""
