"""Colours of kinds of cut, for the figures of students."""

# Kind of cut: its colour, marker and name.
CUTS = {
    "layers": ("#0072B2", "o", "layers"),
    "heads": ("#CC79A7", "v", "heads"),
    "ffn": ("#009E73", "s", "FFN width"),
    "hidden": ("#E69F00", "D", "hidden width"),
    "zeros": ("#666666", "X", "zeros, stored dense"),
    "pattern": ("#000000", "*", "2:4 zeros, stored dense"),
    "csr": ("#D55E00", "P", "zeros, stored as CSR"),
    "2:4": ("#7a21dd", "h", "2:4, for sparse tensor cores"),
}
