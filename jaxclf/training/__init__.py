"""How a phase is trained: losses, optimizer, steps, the loop over epochs, rates, heads, and what it all costs."""
