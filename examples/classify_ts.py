"""Ragged, multivariate series from two files of the UCR/UEA archive: parameters by cross-validation, then the test.

    python examples/classify_ts.py JapaneseVowels_TRAIN.ts JapaneseVowels_TEST.ts

The search is scikit-learn's, on all processors; rnnfast does not need scikit-learn otherwise.
"""

import argparse

from sklearn.model_selection import GridSearchCV

from rnnfast.classify import SequenceClassifier
from rnnfast.classify.confusion import confusion_matrix, write_matrix
from rnnfast.classify.files import read


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a processor)")
    args = parser.parse_args()
    train, test = read(args.train), read(args.test)
    model = SequenceClassifier(
        bidirectional=True, scale=True, dropout=0.5, learning_rate=5e-3, max_epochs=args.epochs, val_frac=0.0, seed=0
    )
    grid = {"hidden_size": [32, 96], "pooling": ["last", "mean"]}
    search = GridSearchCV(model, grid, cv=3, n_jobs=args.jobs).fit(train.X, train.y)
    best, score = search.best_estimator_, search.best_score_
    print(f"best of {len(search.cv_results_['params'])}: {search.best_params_}, {score:.1%} right in cross-validation")
    print(f"{best.score(test.X, test.y):.1%} right of {len(test.X)} series of {args.test}")
    print(write_matrix(confusion_matrix(best, test.X, test.y), best.classes_.tolist(), padded=True))


if __name__ == "__main__":
    main()
