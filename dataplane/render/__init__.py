"""Traces for people, for programs, and in the kernel's own form. Each reads the events of a walk and decides nothing."""
