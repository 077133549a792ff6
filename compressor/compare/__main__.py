"""`python -m compressor.compare`."""

from compressor.comparing import main

if __name__ == "__main__":
    main()
