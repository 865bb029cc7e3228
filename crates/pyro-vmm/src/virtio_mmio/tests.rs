//! Registers, as a driver uses and misuses them.
