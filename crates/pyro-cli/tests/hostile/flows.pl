# Opens connections to this host's loopback and never reads from them: flows.pl ATTEMPTS PORT. Tells how many are open and
# how many were refused, and holds them until /run/enough is there, for a minute at most.
use strict;
use warnings;
use Socket;

my ($attempts, $port) = @ARGV;
$| = 1;
my (@held, $refused);
$refused = 0;
my $to = sockaddr_in($port, inet_aton("198.19.255.1"));
print "begun\n";
for my $attempt (1 .. $attempts) {
    socket(my $socket, AF_INET, SOCK_STREAM, 0) or die "socket: $!";
    # The guest's own memory is not what is tried.
    setsockopt($socket, SOL_SOCKET, SO_RCVBUF, 4096);
    if (connect($socket, $to)) { push @held, $socket } else { $refused++ }
}
print scalar(@held), " $refused\n";
my $begun = time;
select(undef, undef, undef, 0.05) until -e "/run/enough" || time - $begun > 60;
