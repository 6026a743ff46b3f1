// pause: what keeps a pod's network namespace while its containers come and go.
module aifactory.dev/localcluster/parts/pause

go 1.26.0
