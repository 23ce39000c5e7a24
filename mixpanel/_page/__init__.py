"""The live page: the messages that an emulator receives or a program sends, as it happens."""
