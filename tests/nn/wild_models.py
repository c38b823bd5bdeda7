"""GAN networks as people write them, small, with the number of chains that `fuse` finds in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class DCGANGenerator(nn.Module):
    """The public DCGAN example: an untraceable root (`input.is_cuda`) around one Sequential."""

    def __init__(self, ngpu=1, nz=6, ngf=4, nc=3):
        super().__init__()
        self.ngpu = ngpu
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 2, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        if input.is_cuda and self.ngpu > 1:
            return nn.parallel.data_parallel(self.main, input, range(self.ngpu))
        return self.main(input)


class DCGANDiscriminator(nn.Module):
    def __init__(self, nc=3, ndf=4):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input):
        return self.main(input).view(-1, 1).squeeze(1)


class UNet(nn.Module):
    """Skip connections by cat, activations before convolutions, modules wired in forward."""

    def __init__(self, nf=4):
        super().__init__()
        self.down1 = nn.Conv2d(3, nf, 4, 2, 1)
        self.down2 = nn.Conv2d(nf, 2 * nf, 4, 2, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * nf)
        self.down3 = nn.Conv2d(2 * nf, 2 * nf, 4, 2, 1)
        self.up3 = nn.ConvTranspose2d(2 * nf, 2 * nf, 4, 2, 1, bias=False)
        self.unnorm3 = nn.BatchNorm2d(2 * nf)
        self.up2 = nn.ConvTranspose2d(4 * nf, nf, 4, 2, 1, bias=False)
        self.unnorm2 = nn.BatchNorm2d(nf)
        self.up1 = nn.ConvTranspose2d(2 * nf, 3, 4, 2, 1)
        self.lrelu = nn.LeakyReLU(0.2)
        self.relu = nn.ReLU()
        self.tanh = nn.Tanh()

    def forward(self, x):
        d1 = self.down1(x)
        d2 = self.norm2(self.down2(self.lrelu(d1)))
        d3 = self.down3(self.lrelu(d2))
        u3 = F.dropout(self.unnorm3(self.up3(self.relu(d3))), 0.0, self.training)
        u2 = self.unnorm2(self.up2(self.relu(torch.cat([u3, d2], 1))))
        return self.tanh(self.up1(self.relu(torch.cat([u2, d1], 1))))


class ResidualBlock(nn.Module):
    """One ReLU module used twice, and `+=` on what a BatchNorm returned."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class ResNetGenerator(nn.Module):
    def __init__(self, nz=6, nf=4):
        super().__init__()
        self.fc = nn.Linear(nz, nf * 16)
        self.blocks = nn.ModuleList([ResidualBlock(nf), ResidualBlock(nf)])
        self.to_rgb = nn.Conv2d(nf, 3, 3, padding=1)
        self.nf = nf

    def forward(self, z):
        h = self.fc(z).view(-1, self.nf, 4, 4)
        for block in self.blocks:
            h = F.interpolate(block(h), scale_factor=2)
        return torch.tanh(self.to_rgb(h))


class CycleGANGenerator(nn.Module):
    """ReflectionPad, InstanceNorm: only the two ends could be fused, and neither is; the first runs by itself."""

    def __init__(self, nf=4):
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, nf, 7),
            nn.InstanceNorm2d(nf),
            nn.ReLU(True),
            nn.Conv2d(nf, nf, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(True),
            nn.Conv2d(nf, 3, 3, padding="same"),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)


class ConditionalDiscriminator(nn.Module):
    """Labels embedded and concatenated; batch size read off the input."""

    def __init__(self, classes=4, nf=4):
        super().__init__()
        self.embed = nn.Embedding(classes, 16 * 16)
        self.conv1 = nn.Conv2d(4, nf, 4, 2, 1)
        self.act1 = nn.LeakyReLU(0.2)
        self.conv2 = nn.Conv2d(nf, 2 * nf, 4, 2, 1)
        self.bn2 = nn.BatchNorm2d(2 * nf)
        self.head = nn.Linear(2 * nf * 16, 1)

    def forward(self, x, labels):
        plane = self.embed(labels).view(x.size(0), 1, 16, 16)
        h = self.act1(self.conv1(torch.cat([x, plane.to(x.dtype)], dim=1)))
        h = F.leaky_relu(self.bn2(self.conv2(h)), 0.2)
        return self.head(h.flatten(1))


class ListGenerator(nn.Module):
    """Parallel ModuleLists, indexed in a loop."""

    def __init__(self, widths=(6, 8, 4)):
        super().__init__()
        pairs = list(zip(widths, widths[1:]))  # noqa: B905
        self.convs = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o in pairs)
        self.acts = nn.ModuleList(nn.LeakyReLU(0.1) for _ in pairs)

    def forward(self, x):
        for i in range(len(self.convs)):
            x = self.acts[i](self.norms[i](self.convs[i](x)))
        return x


def conv_block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.LeakyReLU(0.2))


def nested_sequential():
    inner = nn.Sequential(conv_block(4, 8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)), nn.ReLU())
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Tanh()), inner)


class ControlFlow(nn.Module):
    """The root branches on data; its blocks can still be traced."""

    def __init__(self):
        super().__init__()
        self.first = conv_block(3, 4)
        self.second = conv_block(4, 4)
        self.loose = nn.Conv2d(4, 4, 1)
        self.loose_bn = nn.BatchNorm2d(4)

    def forward(self, x):
        h = self.first(x)
        if h.mean() > 1e9:
            return h
        return torch.relu(self.loose_bn(self.loose(self.second(h))))


class FeatureDiscriminator(nn.Module):
    """Reads every layer's output of a Sequential, one by one."""

    def __init__(self):
        super().__init__()
        self.layers = conv_block(3, 4)
        self.head = nn.Conv2d(4, 1, 8)

    def forward(self, x):
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x.mean())
        return self.head(x).flatten() + sum(features)


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(3)
        self.bn2 = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn2(self.conv(torch.relu(self.bn1(self.conv(x)))))


def spectral_norm_critic():
    parametrised = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        parametrised(nn.Conv2d(3, 4, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


class Upsampler(nn.Module):
    """output_size makes a transposed convolution compute its padding from the call."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3, 2, 1)
        self.bn = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, dilation=2, padding=2, groups=2)
        self.act = nn.ReLU()

    def forward(self, x):
        h = self.bn(self.up(x, output_size=(x.size(0), 4, 2 * x.size(2), 2 * x.size(3))))
        return self.act(self.conv(h))


@dataclass
class Wild:
    """A model, what it takes, and how many chains, of several modules and of one, `fuse` finds in it."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    fused: int
    convolutions: int
    alone: int = 0


def noise(*shape):
    return lambda: (torch.randn(*shape),)


WILD = [
    Wild("dcgan_generator", DCGANGenerator, noise(3, 6, 1, 1), 3, 3),
    Wild("dcgan_discriminator", DCGANDiscriminator, noise(3, 3, 16, 16), 2, 3, alone=1),
    Wild("unet", UNet, noise(2, 3, 16, 16), 5, 6, alone=1),
    Wild("resnet_generator", ResNetGenerator, noise(2, 6), 4, 5, alone=1),
    Wild("cyclegan_generator", CycleGANGenerator, noise(2, 3, 8, 8), 0, 3, alone=1),
    Wild(
        "conditional_discriminator",
        ConditionalDiscriminator,
        lambda: (torch.randn(3, 3, 16, 16), torch.randint(4, (3,))),
        2,
        2,
    ),
    Wild("module_lists", ListGenerator, noise(2, 6, 3, 3), 2, 2),
    Wild("nested_sequential", nested_sequential, noise(2, 3, 9, 9), 3, 3),
    Wild("control_flow", ControlFlow, noise(2, 3, 12, 12), 2, 3),
    Wild("feature_discriminator", FeatureDiscriminator, noise(2, 3, 16, 16), 1, 2, alone=1),
    Wild("shared_convolution", SharedConv, noise(2, 3, 6, 6), 0, 1),
    Wild("spectral_norm_critic", spectral_norm_critic, noise(2, 3, 8, 8), 1, 3),
    Wild("upsampler", Upsampler, noise(2, 3, 5, 5), 1, 2),
]
