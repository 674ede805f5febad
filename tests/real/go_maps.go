// Workers store to a mapped file of so many MiB each, while collections of garbage send signals to all threads.
// Arguments: MiB, workers.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func work(name string, size int) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0600)
	check(err)
	check(file.Truncate(int64(size)))
	memory, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err)
	for at := 0; at < size; at += 4096 {
		memory[at] = 1
	}
	check(syscall.Munmap(memory))
	check(file.Close())
}

func main() {
	size, err := strconv.Atoi(os.Args[1])
	check(err)
	workers, err := strconv.Atoi(os.Args[2])
	check(err)
	go func() {
		for {
			runtime.GC()
			time.Sleep(200 * time.Microsecond)
		}
	}()
	var all sync.WaitGroup
	for number := 0; number < workers; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			work(fmt.Sprintf("/dev/shm/go%d", number), size<<20)
		}(number)
	}
	all.Wait()
}
