//! What the program says: its help, and why it refuses.
