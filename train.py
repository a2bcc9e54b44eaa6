"""Train one phase: `python train.py`, `python train.py phase=2`, `python train.py phase=2 +sweep`.

The same as `hyperinverter train`, which needs no checkout.
"""

from hyperinverter.train import main

if __name__ == "__main__":
    main()
