"""`python -m residual_lens`, and what `accelerate launch --module residual_lens` runs."""

from residual_lens.cli import main

if __name__ == "__main__":
    main()
