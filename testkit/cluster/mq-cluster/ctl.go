package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
)

// ctl puts a fault on a broker, or takes it off, from a shell.
func ctl(args []string) error {
	flags := flag.NewFlagSet("ctl", flag.ContinueOnError)
	number := flags.String("n", "", "number of the instance")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New("`ctl` needs a broker (kafka, kafka-1 to kafka-3, node-kafka) and an action (stop, start, kill, pause, resume)")
	}
	socket, err := controlSocket(*number)
	if err != nil {
		return err
	}
	return askControl(socket, flags.Arg(0), flags.Arg(1))
}

// controlSocket is that of the named instance, of the run that we are in, or of the only one.
func controlSocket(number string) (string, error) {
	if number != "" {
		return filepath.Join(runFolder(), number, "control.sock"), nil
	}
	if description := os.Getenv("MQ_TESTKIT"); description != "" {
		return filepath.Join(filepath.Dir(description), "control.sock"), nil
	}
	found, err := filepath.Glob(filepath.Join(runFolder(), "*", "control.sock"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", errors.New("there is not exactly one instance: name it with -n N")
	}
	return found[0], nil
}
