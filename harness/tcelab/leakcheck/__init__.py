"""Does a command leave mappings behind? The kernel's own drivers do DMA, and every table is watched from outside."""
