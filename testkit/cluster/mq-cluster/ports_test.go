package main

import "testing"

func TestRunsThatBeginTogetherTakeDifferentPorts(t *testing.T) {
	taken := map[int]bool{}
	for range 3 {
		reserved, err := reservePorts(90, 20)
		if err != nil {
			t.Fatal(err)
		}
		defer reserved.guard.Close()
		for _, port := range reserved.free {
			if taken[port] {
				t.Fatalf("port %d was given twice", port)
			}
			taken[port] = true
		}
	}
	if len(taken) != 60 {
		t.Fatalf("%d ports", len(taken))
	}
}
