// A Redis in memory: for the Argo CD of `make test-argo`.
module aifactory.dev/localcluster/parts/miniredis

go 1.26.0

require github.com/alicebob/miniredis/v2 v2.39.0

require github.com/yuin/gopher-lua v1.1.1 // indirect
