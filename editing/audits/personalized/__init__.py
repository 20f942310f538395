"""The audit of a subject that was taught: likeness, entanglement, drift, copies, kept steps."""
