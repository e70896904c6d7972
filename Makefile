# make demo: a trained scene and pictures on any machine, in minutes.   make test: all tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/python scripts/make_demo_scene.py data/demo
	$(BIN)/python train.py --config configs/demo.yaml
	$(BIN)/python render.py output/demo --path ellipse --frames 60 --depth

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

.venv/ready: requirements.txt tests/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt -c constraints.txt
	touch $@

clean:
	rm -rf .venv output/demo data/demo
