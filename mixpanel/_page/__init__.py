"""The live page: what arrives at the emulator, or leaves a program, as it happens."""
