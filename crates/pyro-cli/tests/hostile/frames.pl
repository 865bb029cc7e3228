# Sends frames past the guest's own network: frames.pl LEAST MOST PORT. Tells when it has begun, and how many there were.
# It ends after LEAST when /run/enough is there, after MOST, or after 150 s. No address in it is ever allowed, but for
# this host's loopback (the gateway) at PORT.
use strict;
use warnings;
use Socket;

my ($least, $most, $port) = @ARGV;
$| = 1;
srand 7;
my $interface = "/sys/class/net/eth0";
sub line { open(my $file, "<", "$interface/$_[0]") or die "$_[0]: $!"; my $line = <$file>; chomp $line; $line }
my $index = line("ifindex");
my $own_mac = pack("H12", line("address") =~ s/://gr);
my $gateway_mac = pack("H12", "027079726f01");
my ($own, $gateway) = map { inet_aton($_) } "198.19.255.2", "198.19.255.1";
socket(my $link, 17, SOCK_RAW, 0) or die "packet socket: $!";
my $to = pack("S n l S C C a8", 17, 0x0800, $index, 0, 0, 6, $gateway_mac);

sub noise { join("", map { chr(int(rand(256))) } 1 .. $_[0]) }
sub checksum {
    my $bytes = $_[0] . (length($_[0]) % 2 ? "\0" : "");
    my $sum = unpack("%32n*", $bytes);
    $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
    return ~$sum & 0xffff;
}
sub ip {
    my ($source, $destination, $protocol, $fragment, $payload, $claimed) = @_;
    my $len = 20 + ($claimed // length($payload));
    my $head = pack("C C n n n C C n a4 a4", 0x45, 0, $len, int(rand(65536)), $fragment, 64, $protocol, 0, $source, $destination);
    substr($head, 10, 2) = pack("n", checksum($head));
    return $gateway_mac . $own_mac . pack("n", 0x0800) . $head . $payload;
}
sub tcp {
    my ($source, $destination, $port, $flags) = @_;
    my $segment = pack("n n N N C C n n n", 1025 + int(rand(64000)), $port, int(rand(2 ** 32)), 0, 0x50, $flags, 65535, 0, 0);
    substr($segment, 16, 2) = pack("n", checksum($source . $destination . pack("n n", 6, 20) . $segment));
    return ip($source, $destination, 6, 0, $segment);
}
sub udp {
    my ($port, $bytes) = @_;
    return pack("n n n n", 1025 + int(rand(64000)), $port, 8 + length($bytes), 0) . $bytes;
}
sub private { pack("C4", 10, int(rand(256)), int(rand(256)), 1 + int(rand(254))) }
my @others = map { inet_aton($_) } "10.0.0.1", "127.0.0.1", "198.19.255.1", "198.19.255.3", "0.0.0.0", "255.255.255.255", "224.0.0.1";
my @kinds = (
    # A source that is not the guest's, to what is open.
    sub { tcp($others[rand @others], $gateway, $port, 2) },
    # Floods of SYNs to what is closed.
    sub { tcp($own, private(), 1 + int(rand(65535)), 2) },
    sub { tcp($own, $gateway, $port == 7 ? 8 : 7, 2) },
    # Segments of connections that are none.
    sub { tcp($own, $gateway, $port, 4 * int(rand(16)) | 16) },
    # Fragments: the first of several, and one in the middle.
    sub { ip($own, $gateway, 6, 0x2000, noise(64)) },
    sub { ip($own, private(), 17, 1 + int(rand(8000)), noise(512)) },
    sub { ip($own, private(), 17, 0, udp(1 + int(rand(65535)), noise(int(rand(1400))))) },
    sub { ip($own, private(), 1, 0, pack("C C n n n", 8, 0, 0, 1, 1)) },
    # Lengths that are not so, headers of noise, protocols that nobody speaks.
    sub { ip($own, $gateway, 6, 0, noise(20), int(rand(60000))) },
    sub { ip($own, private(), int(rand(256)), 0, noise(int(rand(100)))) },
    sub { $gateway_mac . $own_mac . pack("n", (0x0800, 0x86dd, 0x0806)[rand 3]) . noise(int(rand(1400))) },
    sub { noise(14 + int(rand(1486))) },
);

my ($sent, $begun) = (0, time);
while ($sent < $most) {
    # A full queue loses frames, as any cable does.
    send($link, $kinds[$sent % @kinds]->(), 0, $to);
    $sent++;
    print "begun\n" if $sent == 100;
    last if $sent % 100 == 0 && ($sent >= $least && -e "/run/enough" || time - $begun > 150);
}
print "$sent\n";
