// Which version of prometheus-operator the live tests take its definitions from. Nothing of it is built.
module mainstay.dev/tests/peers/prometheus-operator

go 1.24.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
