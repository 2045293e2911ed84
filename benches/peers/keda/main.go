// Command keda asks KEDA's own Kafka scalers, one per group with default settings, for the lag of all groups, and again for each line
// that it is given. Answers with the nanoseconds that it took and the sum of all lags. The first answer includes making the scalers.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/kedacore/keda/v2/pkg/scalers"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
)

// As many of them at the same time.
const workers = 16

func main() {
	if err := run(os.Args[1], os.Args[2], number(os.Args[3]), number(os.Args[4])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bootstrap, prefix string, topics, groups int) error {
	started := time.Now()
	all := make([]scalers.Scaler, groups)
	err := each(groups, func(n int) (err error) {
		all[n], err = scalers.NewKafkaScaler(context.Background(), &scalersconfig.ScalerConfig{
			ScalableObjectName:      fmt.Sprintf("group-%d", n),
			ScalableObjectNamespace: "bench",
			ScalableObjectType:      "ScaledObject",
			GlobalHTTPTimeout:       3 * time.Second,
			TriggerType:             "kafka",
			TriggerMetadata: map[string]string{
				"bootstrapServers": bootstrap,
				"consumerGroup":    fmt.Sprintf("%s-group-%d", prefix, n),
				"topic":            fmt.Sprintf("%s-topic-%d", prefix, n%topics),
				// The sum itself, and not what of it has a replica.
				"lagThreshold": "1000000",
			},
		})
		return err
	})
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for {
		lags := make([]int64, groups)
		err := each(groups, func(n int) error {
			metrics, _, err := all[n].GetMetricsAndActivity(context.Background(), "lag")
			if err == nil {
				lags[n] = metrics[0].Value.Value()
			}
			return err
		})
		if err != nil {
			return err
		}
		var sum int64
		for _, lag := range lags {
			sum += lag
		}
		fmt.Println(time.Since(started).Nanoseconds(), sum)
		if !lines.Scan() {
			return lines.Err()
		}
		started = time.Now()
	}
}

// each calls work for all numbers, some at the same time, and returns one of the errors.
func each(count int, work func(n int) error) error {
	numbers, errors := make(chan int), make(chan error, workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for n := range numbers {
				if err := work(n); err != nil {
					select {
					case errors <- err:
					default:
					}
				}
			}
		})
	}
	for n := range count {
		numbers <- n
	}
	close(numbers)
	group.Wait()
	select {
	case err := <-errors:
		return err
	default:
		return nil
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return n
}
