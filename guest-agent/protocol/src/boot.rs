//! What the host tells a guest's init on the kernel command line.
