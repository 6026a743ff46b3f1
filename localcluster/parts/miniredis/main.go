// Miniredis is a Redis in memory, for an Argo CD that runs in tests: the one that Argo CD's own tests use, on an address.
package main

import (
	"flag"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
)

func main() {
	address := flag.String("listen", "127.0.0.1:6379", "where it listens")
	flag.Parse()
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(*address); err != nil {
		log.Fatalf("miniredis: %v", err)
	}
	// Its clock stands still by itself, and what Argo CD caches is to age.
	for range time.Tick(time.Second) {
		server.FastForward(time.Second)
	}
}
