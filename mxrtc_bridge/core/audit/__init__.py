"""The audit as values: the chain of records, their sentences, and the shares of those who order them."""
