"""The PTX executor: parser, table of instructions, translator, and modules that can be launched."""
