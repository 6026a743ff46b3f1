// The Gateway API: its CRDs, for tests on an API server that has them.
module aifactory.dev/tests/component/gatewayapi

go 1.26.0

require sigs.k8s.io/gateway-api v1.6.1
