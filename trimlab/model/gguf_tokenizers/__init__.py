"""Reference tokenizers of GGUF files: a file each, named after `tokenizer.ggml.model`."""
